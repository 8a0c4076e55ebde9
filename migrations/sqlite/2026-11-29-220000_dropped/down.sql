DROP TABLE dropped;
